"""Training with the trainer that the user has: solvers, jobs, and the trainers that run them."""
