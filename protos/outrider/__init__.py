"""The protocol of Outrider."""
