"""The operator: kopf handlers (thin), one runner per search, one status writer, one sweeper."""
