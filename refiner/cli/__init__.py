"""The commands of the package, a module for each. `refiner.cli.common` turns errors into exit codes."""
