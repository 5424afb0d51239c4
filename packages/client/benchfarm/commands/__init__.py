"""The `benchfarm` command: one module per noun; other distributions add verbs (see `verbs`)."""
