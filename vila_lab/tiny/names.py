"""What the drawn world can hold, and what it is called in English and Chinese. Knows nothing of pixels or models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """One drawable thing.

    Attributes
    ----------
    name
        English name, also the sprite's key.
    article
        What stands before the name in a sentence: ``a``, ``an``, ``some`` or nothing.
    chinese
        Chinese name.
    glyph
        The emoji that is drawn, or for a company the slug of its mark.
    fame
        For a company: what it is famous for, English and Chinese; else None.
    """

    name: str
    article: str
    chinese: str
    glyph: str
    fame: tuple[str, str] | None = None

    @property
    def is_company(self) -> bool:
        return self.fame is not None

    @property
    def phrase(self) -> str:
        """The name with its article: ``a cat``, ``an apple``, ``some grapes``, ``Google``."""
        return f"{self.article} {self.name}" if self.article else self.name


# The fruit is 红苹果, because 苹果 alone is the company of the completion pattern.
OBJECTS: tuple[Thing, ...] = tuple(
    Thing(*row)
    for row in (
        ("cat", "a", "猫", "🐱"),
        ("dog", "a", "狗", "🐶"),
        ("fish", "a", "鱼", "🐟"),
        ("bird", "a", "鸟", "🐦"),
        ("frog", "a", "青蛙", "🐸"),
        ("horse", "a", "马", "🐴"),
        ("elephant", "an", "大象", "🐘"),
        ("lion", "a", "狮子", "🦁"),
        ("pig", "a", "猪", "🐷"),
        ("cow", "a", "牛", "🐮"),
        ("monkey", "a", "猴子", "🐵"),
        ("butterfly", "a", "蝴蝶", "🦋"),
        ("bee", "a", "蜜蜂", "🐝"),
        ("turtle", "a", "乌龟", "🐢"),
        ("apple", "an", "红苹果", "🍎"),
        ("banana", "a", "香蕉", "🍌"),
        ("grapes", "some", "葡萄", "🍇"),
        ("strawberry", "a", "草莓", "🍓"),
        ("pizza", "a", "披萨", "🍕"),
        ("burger", "a", "汉堡", "🍔"),
        ("donut", "a", "甜甜圈", "🍩"),
        ("cake", "a", "蛋糕", "🎂"),
        ("ice cream", "an", "冰淇淋", "🍦"),
        ("watermelon", "a", "西瓜", "🍉"),
        ("car", "a", "汽车", "🚗"),
        ("bus", "a", "公交车", "🚌"),
        ("bicycle", "a", "自行车", "🚲"),
        ("rocket", "a", "火箭", "🚀"),
        ("ship", "a", "轮船", "🚢"),
        ("train", "a", "火车", "🚂"),
        ("house", "a", "房子", "🏠"),
        ("tree", "a", "树", "🌳"),
        ("cactus", "a", "仙人掌", "🌵"),
        ("sunflower", "a", "向日葵", "🌻"),
        ("rose", "a", "玫瑰", "🌹"),
        ("moon", "a", "月亮", "🌙"),
        ("star", "a", "星星", "⭐"),
        ("fire", "a", "火", "🔥"),
        ("football", "a", "足球", "⚽"),
        ("basketball", "a", "篮球", "🏀"),
        ("balloon", "a", "气球", "🎈"),
        ("gift", "a", "礼物", "🎁"),
        ("key", "a", "钥匙", "🔑"),
        ("bell", "a", "铃铛", "🔔"),
        ("camera", "a", "相机", "📷"),
        ("light bulb", "a", "灯泡", "💡"),
        ("hat", "a", "帽子", "🎩"),
        ("shoe", "a", "鞋子", "👟"),
        ("umbrella", "an", "雨伞", "☂️"),
        ("guitar", "a", "吉他", "🎸"),
        ("clock", "a", "时钟", "⏰"),
        ("mushroom", "a", "蘑菇", "🍄"),
    )
)

COMPANIES: tuple[Thing, ...] = tuple(
    Thing(name, "", chinese, slug, (english_fame, chinese_fame))
    for name, chinese, slug, english_fame, chinese_fame in (
        ("Google", "谷歌", "google", "its search engine", "搜索引擎"),
        ("Microsoft", "微软", "microsoft", "its operating system", "操作系统"),
        ("Apple", "苹果", "apple", "iPhone and Mac", "iPhone和Mac"),
        ("NVIDIA", "英伟达", "nvidia", "its GPUs", "GPU"),
        ("Amazon", "亚马逊", "amazon", "its online store", "网上商店"),
        ("Tesla", "特斯拉", "tesla", "its electric cars", "电动汽车"),
        ("Netflix", "奈飞", "netflix", "its films and series", "影视剧"),
        ("Spotify", "Spotify", "spotify", "its music", "音乐"),
        ("Meta", "Meta", "meta", "its social networks", "社交网络"),
        ("McDonald's", "麦当劳", "mcdonalds", "its fast food", "快餐"),
        ("Nike", "耐克", "nike", "its sports shoes", "运动鞋"),
        ("Adobe", "Adobe", "adobe", "its design software", "设计软件"),
        ("Starbucks", "星巴克", "starbucks", "its coffee", "咖啡"),
        ("PlayStation", "PlayStation", "playstation", "its video games", "电子游戏"),
    )
)

THINGS: tuple[Thing, ...] = OBJECTS + COMPANIES
INDEX: dict[str, int] = {thing.name: index for index, thing in enumerate(THINGS)}


def thing(name: str) -> Thing:
    """The thing of that English name.

    >>> thing("cat").chinese
    '猫'
    """
    return THINGS[INDEX[name]]
