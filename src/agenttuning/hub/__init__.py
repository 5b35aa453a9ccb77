"""To the Hub: a built dataset with its card, checked before anything leaves the machine."""
