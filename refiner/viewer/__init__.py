"""Show skeletons: in the browser while a stream runs, and as a video of a sequence."""
