"""The miniature: a small world on which a laptop can show the whole method in minutes.

Its texts are procedurally made and its model has about a million parameters. It shows that the pipeline works and
that the paper's effects appear in small; it says nothing about the size of those effects in Llama-2.
"""
