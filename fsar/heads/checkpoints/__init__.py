"""Published checkpoints to run folders of ours."""
