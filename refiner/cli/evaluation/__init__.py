"""The parts of ``refiner-evaluate`` (`refiner.cli.evaluate`).

`options` parses the options. Three modules do the three jobs of the command: `archive` scores models on a motion
archive, `mpi_inf_3dhp` on the test set of MPI-INF-3DHP, and `paper_tables` prints the tables of the papers. They load
models with `models` and clips with `clips`; `records` describes the models in the report.
"""
