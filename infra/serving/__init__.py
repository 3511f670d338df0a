"""The feature server: features over HTTP, as Feast's clients ask for them."""
