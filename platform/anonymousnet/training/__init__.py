"""Training with torch alone: `loop` is the story, `engine` the seam to DeepSpeed, one file per task the detail."""
