"""The commands; `refiner.cli.common` turns errors into exit codes."""
