"""The REST API. Routes are thin: they authorise, open one transaction, and call the store."""
