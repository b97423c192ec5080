"""`python -m gradserve` is the command `gradserve`."""

from gradserve.cli import main

if __name__ == "__main__":
    main()
