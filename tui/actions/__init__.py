"""What the slash commands do on the screen: a function each, named like its command."""
