"""Language models, hooked: encoding, batching, running, writing, loading."""
