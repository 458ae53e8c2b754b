"""The response cache: responses of models that answer equal requests equally, in this process or in a Redis server."""
