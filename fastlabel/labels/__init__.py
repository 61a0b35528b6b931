"""Labels of crops: stored top-k, sparse, their codec, their loss, edits of them (`ops`)."""
