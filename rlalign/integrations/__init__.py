"""Other libraries: their trainers on our environments, our rewards and tasks in their trainers."""
