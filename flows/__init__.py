"""The workflows: composition of tasks, nothing else."""
