"""One module per kind of board, all behind `interface.Board`."""
