"""The planner: what a job is, whom it is for, and what each attempt is bound to."""
