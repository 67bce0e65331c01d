"""LIBERO: upstream's tasks on MuJoCo behind the env API."""
