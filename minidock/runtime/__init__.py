"""A container as a process: its mount plan, its launch, its life until the exit status is written down."""
