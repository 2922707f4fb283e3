"""The accuracy study: trains the models of a table, scores them on people that they never saw, and compares them."""
