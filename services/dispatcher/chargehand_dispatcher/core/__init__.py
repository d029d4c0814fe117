"""The dispatcher's rules: pure functions from a state, a message and a time to the next state and what is to be said."""
