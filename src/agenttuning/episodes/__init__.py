"""Environment x protocol x policy over items: the runner, the statuses and the store of trajectories."""
