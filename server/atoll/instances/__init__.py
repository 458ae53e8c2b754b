"""The supervisor's side of the stubs: starting them, talking to them, noticing their death, starting them again."""
