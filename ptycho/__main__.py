"""`python -m ptycho` is the command `ptycho`."""

from ptycho.cli.main import main

if __name__ == "__main__":
    main()
