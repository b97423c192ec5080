"""The commands of gradserve, a module for each."""
