"""The sequence batcher: requests that belong together go, in their order, to one instance of their model."""
