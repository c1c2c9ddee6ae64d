"""Face data: RecordIO, folders and archives, augmentation and degradation. Only ``datasets`` needs torch."""
