"""The data that a Qwen-VLA is trained on: recorded, synthetic, vision-language, human; and the mixture that makes a stream of them."""
