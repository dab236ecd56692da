"""Mutants: patches that break one promise each. A suite that does not notice one of them proves nothing."""
