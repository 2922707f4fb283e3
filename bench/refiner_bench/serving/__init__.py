"""``refiner-bench serve``: a server under the load of many clients, and what it tells the next one."""
