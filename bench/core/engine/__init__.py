"""eco2 as a contender, twice: what takes a job from the broker and settles it, and all of it."""
