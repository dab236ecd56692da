"""What a call will count at the provider, said before it is sent and learnt from what was counted. No I/O."""
