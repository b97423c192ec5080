"""What calls return, a module for each subject."""
