"""gradserve demo: a server of its own is asked about pictures, and a page shows what it answers."""
