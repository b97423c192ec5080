"""How the embedded models were trained. Not part of what is installed: run from the folder `server`."""
