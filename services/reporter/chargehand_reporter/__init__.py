"""The reporter: folds what the others said into what people and programs read. Memory is its task, nothing else."""
