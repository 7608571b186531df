"""A console to look at, without a model server, a monitor or a worker: a case book with cases in every state."""
