"""Who churned, what the model sees, and how rows are split."""
