"""What mattered of other people's sites, rebuilt: each is set up as theirs is, and is served."""
