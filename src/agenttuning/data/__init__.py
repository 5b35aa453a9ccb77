"""What a run eats: sources, their conversion, the mixture drawn from them, and the dataset made of it."""
