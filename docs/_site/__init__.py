"""What builds those pages of the site that are not written by hand."""
