"""What a claim is, and the effects that several studies rest theirs on."""
