"""How others store and make soft labels, written anew from the descriptions of their papers and formats."""
