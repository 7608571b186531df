"""Mirror mode: a sink for the events of KServe's inference logger, for where nobody may stand in the request path."""
