from headwater.schemas.codec import AvroCodec
__all__=["AvroCodec"]
