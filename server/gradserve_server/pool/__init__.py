"""Worker processes, how a front-end keeps track of them, and the messages between the two."""
