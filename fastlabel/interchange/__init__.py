"""Labels in other projects' files: read into a store, and written from one. docs/interchange.md."""
