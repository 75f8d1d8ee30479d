"""`python -m jaxrec` is the `jaxrec` command."""

from jaxrec.command import main

if __name__ == "__main__":
    main()
