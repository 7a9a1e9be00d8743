"""How large the chunks of a document are. Apart from the splitter, which takes long to load."""

MIN_CHUNK_CHARACTERS, MAX_CHUNK_CHARACTERS = 800, 1_200
"""A chunk has as many whole paragraphs or sentences as fit into this."""
OVERLAP_CHARACTERS = 100
"""What two neighbours have in common, so that a sentence at the border is whole in one of them."""
