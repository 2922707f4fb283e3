"""Archives of thousands of sequences, refined by one command.

`open_run` (`refiner.archive.run`) lists an archive, compares it with the ledger of the output folder, and gives the
chunks that are to be done. `refine_chunk` (`refiner.archive.work`) does one chunk, in any process. `ArchiveRun.record`
writes the ledger; only the process that opened the run calls it.
"""
